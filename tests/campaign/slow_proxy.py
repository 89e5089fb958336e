"""A TCP proxy that passes so many bytes a second: a slow link where the kernel offers none."""
import selectors
import socket
import threading
import time

CHUNK = 4096


class SlowProxy:
    """Listens on loopback; every connection goes on to (host, port). rate 0: as fast as it comes."""

    def __init__(self, host, port):
        self.to, self.rate = (host, port), 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            near, _ = self.listener.accept()
            threading.Thread(target=self._pass, args=(near,), daemon=True).start()

    def _pass(self, near):
        try:
            far = socket.create_connection(self.to, 5)
        except OSError:
            near.close()
            return
        ready = selectors.DefaultSelector()
        ready.register(near, selectors.EVENT_READ, far)
        ready.register(far, selectors.EVENT_READ, near)
        try:
            while True:
                for key, _ in ready.select():
                    part = key.fileobj.recv(CHUNK)
                    if not part:
                        return
                    if self.rate:
                        time.sleep(len(part) / self.rate)
                    key.data.sendall(part)
        except OSError:
            pass
        finally:
            near.close()
            far.close()
