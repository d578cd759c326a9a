"""A small server that speaks OpenAI's chat protocol: gives the answers that a test wrote, keeps what it was sent."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer


@contextmanager
def judge_server(answers):
    """Gives the server's address, and a list of requests: (path, headers, body).

    Args:
        answers: One after the other: a text for the model's answer, or a status with a body and headers.
    """
    left, requests = list(answers), []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            requests.append((self.path, dict(self.headers), json.loads(body)))
            answer = left.pop(0)
            if isinstance(answer, str):
                content = {"choices": [{"message": {"role": "assistant", "content": answer}}]}
                answer = (200, json.dumps(content).encode(), {})
            status, content, headers = answer
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", requests
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def good_answer(*ratings):
    """An answer of the form asked for: per picture three numbers."""
    keys = ("text_alignment", "character_consistency", "image_quality")
    frames = [{"frame": number, **dict(zip(keys, each, strict=True))} for number, each in enumerate(ratings, start=1)]
    return json.dumps({"frames": frames})
