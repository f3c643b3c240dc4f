"""Every test session has a cache folder of its own, can be interrupted, verifies graphs after every pass, and has two GPUs, emulated."""

import os
import signal
import tempfile
import threading

# Background jobs of a shell ignore SIGINT, and so would the programs that tests start to interrupt them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)

_cache = tempfile.TemporaryDirectory(prefix="tracefuse-tests-")
os.environ["TRACEFUSE_CACHE_DIR"] = _cache.name
os.environ.setdefault("TRACEFUSE_CUDA", "interpret:2")  # two GPUs, emulated on the host
if os.environ["TRACEFUSE_CUDA"]:
    os.environ["TRITON_INTERPRET"] = "1"  # before anybody imports triton: torch does
