"""Every test session has a cache folder of its own, and verifies graphs after every pass."""

import os
import tempfile

_cache = tempfile.TemporaryDirectory(prefix="tracefuse-tests-")
os.environ["TRACEFUSE_CACHE_DIR"] = _cache.name
