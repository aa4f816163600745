"""A package index on this machine that can be well, slow, dumb or ill.

    python small_index.py DIRECTORY MODE

Prints its port. MODE: ``well`` serves the wheels of DIRECTORY, ``slow`` sends half of a wheel and
then nothing, ``stalled`` takes requests and never answers, ``ill`` answers 503.
"""

import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

DIRECTORY, MODE = Path(sys.argv[1]), sys.argv[2]


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if MODE == "stalled":
            time.sleep(60)
            return
        if MODE == "ill":
            self.send_error(503)
            return
        name = self.path.rpartition("/")[2]
        if name.endswith(".whl"):
            data = (DIRECTORY / name).read_bytes()
        else:
            links = (f'<a href="/{p.name}">{p.name}</a>' for p in DIRECTORY.glob("*.whl"))
            data = f"<!DOCTYPE html><html><body>{' '.join(links)}</body></html>".encode()
        self.send_response(200)
        kind = "application/octet-stream" if name.endswith(".whl") else "text/html"
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if MODE == "slow" and name.endswith(".whl"):
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            time.sleep(60)
            return
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.daemon_threads = True
print(server.server_port, flush=True)
server.serve_forever()
