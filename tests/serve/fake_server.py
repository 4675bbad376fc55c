"""A server with the fake worker, to be killed: ``python fake_server.py FOLDER [PORT]``."""

import sys
from pathlib import Path

from blindharmony.serve.run import Options, serve

if __name__ == "__main__":
    worker = (sys.executable, "-S", str(Path(__file__).with_name("fake_worker.py")))
    port = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    options = Options(Path(sys.argv[1]), port=port, worker=worker)
    print("stopped", serve(options, lambda link: print(link, flush=True), print), flush=True)
