"""A server with the fake worker, to be killed: ``python fake_server.py FOLDER [PORT]``; it is soon impatient."""

import sys
from pathlib import Path

from fake_worker import FakeJob

from blindharmony.serve.app import PatientProtocol
from blindharmony.serve.run import Options, serve

if __name__ == "__main__":
    PatientProtocol.head_s, PatientProtocol.body_s = 2.0, 1.0
    port = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    options = Options(Path(sys.argv[1]), port=port, work=FakeJob)
    print("stopped", serve(options, lambda link: print(link, flush=True), print), flush=True)
