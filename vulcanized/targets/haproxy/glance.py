"""A look at what runs that keeps nobody waiting.

To read back and compare 50,000 servers takes a fifth of a second, and an event that came in
meanwhile would wait for it. So where there are many, a look is taken beside the target's thread. It
decides nothing: where it has a doubt, the target looks for itself.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from vulcanized.model import AppId
from vulcanized.targets.haproxy.live import Live
from vulcanized.targets.haproxy.running import Running


class Glance:
    """One look, begun when it is made; `ended` says when the rest can be read.

    `doubt`: what may not be as we left it, "" when all is. `seconds`: what it took. Apps that
    change while it lasts are to be put into `touched` before they do: they are not compared.
    """

    def __init__(self, read_back: Callable[[], Live], running: Running) -> None:
        self.running = running
        self.touched: set[AppId] = set()
        self.ended = False
        self.doubt = ""
        self.seconds = 0.0
        self._read_back = read_back
        threading.Thread(target=self._look, name="glance", daemon=True).start()

    def _look(self) -> None:
        began = time.monotonic()
        try:
            self.doubt = self.running.differences(self._read_back(), self.touched)
        except Exception as error:
            # HAProxy is away, or `running` changed under our eyes: either way it is a doubt.
            self.doubt = f"{type(error).__name__}: {error}"
        self.seconds = time.monotonic() - began
        self.ended = True
