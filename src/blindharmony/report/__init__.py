"""One self-contained HTML page per scan, and the measures behind it."""

from blindharmony.report.evidence import Confidence, Curve, ScanEvidence, Verdict
from blindharmony.report.methods import methods_text
from blindharmony.report.render import render_report, write_report

__all__ = ["Confidence", "Curve", "ScanEvidence", "Verdict", "methods_text", "render_report", "write_report"]
