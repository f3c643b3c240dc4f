"""The thread pool's code, as LLVM text. `threads.py` compiles it, sizes it and hands it out.

A region cuts its tasks into chunks. Each thread owns a *ticket*: (epoch, next, limit) packed into one word, from which
it and, once done with its own, every other thread claim chunks by compare-and-swap. The epoch makes a stale swap fail,
so a worker may look at tickets at any time: one that it could claim belongs to a region that cannot end before that
chunk is done. Hence nobody waits for workers that sleep; a region ends when its chunks have been counted as done.
Owned tickets keep a thread on the same part of the data from region to region, which keeps that part in its cache.
"""

from __future__ import annotations

from ..backends.llvm.builder import Function, Module, Val, i32, i64

CAPACITY = 256  # tickets: the most threads a pool can have
LINE = 16  # i64 words between things that different threads write (two cache lines: neighbours are prefetched)
CHUNKS_PER_THREAD = 4

# words of the state, each on lines of its own
EPOCH, SLEEPERS, BUSY, COMPLETED, SETTINGS, REGION, TICKETS = (k * LINE for k in range(7))
THREADS, STARTED, SPINS = SETTINGS, SETTINGS + 1, SETTINGS + 2
FN, BUFS, DIMS, TASKS, CHUNK, USED = (REGION + k for k in range(6))
FUTEX_WAIT_PRIVATE, FUTEX_WAKE_PRIVATE = 128, 129
SIG_SETMASK = 2
SIGSET_BYTES = 128
WORK, WORKER, START = (Val(f"@tf_pool_{name}", "ptr") for name in ("work", "worker", "start"))


class _Pool:
    """Shorthand for reading and writing the state in one function."""

    def __init__(self, f: Function):
        self.f = f

    def at(self, word: int) -> Val:
        return self.f.gep("i64", Val("@tf_pool", "ptr"), i64(word))

    def ticket(self, thread: Val) -> Val:
        return self.f.gep("i64", self.at(TICKETS), self.f.mul(thread, i64(LINE)))

    def get(self, word: int, type: str = "i64", order: str = "monotonic") -> Val:
        return self.f.emit(type, f"load atomic {type}, {self.at(word)} {order}, align 8")

    def put(self, value: Val, word: int, order: str = "monotonic") -> None:
        self.f.do(f"store atomic {value}, {self.at(word)} {order}, align 8")

    def add(self, value: Val, word: int, order: str = "seq_cst") -> Val:
        return self.f.emit(value.type, f"atomicrmw add {self.at(word)}, {value} {order}")


def _relax(f: Function, arch: str) -> None:
    """Tells the core that this is a spin loop."""
    if arch == "x86_64":
        f.call("llvm.x86.sse2.pause", "void")
    elif arch == "aarch64":
        f.call("llvm.aarch64.hint", "void", i32(1))


def _futex(f: Function, number: int, op: int, value: Val) -> None:
    word = _Pool(f).at(EPOCH)
    f.call(
        "syscall", "i64", i64(number), word, i64(op), f.convert("zext", value, "i64"), Val("null", "ptr"), vararg_from=1
    )


def _run_chunks(m: Module) -> None:
    """i64 tf_pool_work(i64 thread): claims and runs chunks until none is left; returns how many the caller of the
    region has to count itself (thread 0), after adding those of a worker to COMPLETED."""
    f = m.function("tf_pool_work", "i64", [("i64", "thread")], "nounwind", "internal")
    pool, (thread,) = _Pool(f), f.args
    used = pool.get(USED)
    own_first = f.cmp("slt", thread, used)
    first = f.select(own_first, thread, i64(0))
    with f.loop(i64(0), used, carried=[i64(0)]) as victims:
        wrapped = f.add(first, victims.index)
        victim = f.select(f.cmp("slt", wrapped, used), wrapped, f.sub(wrapped, used))
        ticket = pool.ticket(victim)
        before = f.current
        look, claim, run, left = f.block("look"), f.block("claim"), f.block("run"), f.block("left")
        f.br(look)
        f.current = look
        mine = Val("%mine", "i64")
        seen = f.emit("i64", f"load atomic i64, {ticket} acquire, align 8")
        following = f.emit("i64", f"and i64 {f.emit('i64', f'lshr i64 {seen.ref}, 16').ref}, 65535")
        limit = f.emit("i64", f"and i64 {seen.ref}, 65535")
        f.cbr(f.cmp("ult", following, limit), claim, left)
        f.current = claim
        swapped = f.emit("{ i64, i1 }", f"cmpxchg {ticket}, {seen}, {f.add(seen, i64(1 << 16))} acquire monotonic")
        won = f.emit("i1", f"extractvalue {{ i64, i1 }} {swapped.ref}, 1")
        f.cbr(won, run, look)
        f.current = run
        chunk, tasks = pool.get(CHUNK), pool.get(TASKS)
        begin = f.mul(following, chunk)
        end = f.intrinsic("smin", "i64", f.add(begin, chunk), tasks)
        f.call_pointer(pool.get(FN, "ptr"), "void", pool.get(BUFS, "ptr"), pool.get(DIMS, "ptr"), begin, end, thread)
        more = f.add(mine, i64(1))
        f.br(look)
        look.lines.insert(
            0,
            f"  %mine = phi i64 [ 0, %{before.label} ], [ %mine, %{claim.label} ], [ {more.ref}, %{run.label} ]",
        )
        f.current = left
        # a worker reports before it looks elsewhere, so that the caller need not wait for its search
        worker = f.emit("i1", f"and i1 {f.cmp('ne', thread, i64(0)).ref}, {f.cmp('ne', mine, i64(0)).ref}")
        with f.when(worker):
            pool.add(mine, COMPLETED, "release")
        victims.next = [f.add(victims.carried[0], mine)]
    f.ret(victims.results[0])


def _worker(m: Module, arch: str, futex: int) -> None:
    """ptr tf_pool_worker(ptr thread): works, spins for the next region a while, then sleeps until there is one."""
    f = m.function("tf_pool_worker", "ptr", [("ptr", "arg")], "nounwind", "internal")
    pool = _Pool(f)
    thread = f.convert("ptrtoint", f.args[0], "i64")
    work, look, spin, sleep, again = (f.block(n) for n in ("work", "look", "spin", "sleep", "again"))
    f.br(work)
    f.current = work
    seen = pool.get(EPOCH, "i32", "acquire")
    with f.when(f.cmp("slt", thread, pool.get(THREADS))):
        f.call_pointer(WORK, "i64", thread)
    spins = pool.get(SPINS)
    entered = f.current
    f.br(look)
    f.current = look
    f.cbr(f.cmp("eq", pool.get(EPOCH, "i32", "acquire"), seen), spin, work)
    f.current = spin
    _relax(f, arch)
    left = f.sub(Val("%left", "i64"), i64(1))
    look.lines.insert(0, f"  %left = phi i64 [ {spins.ref}, %{entered.label} ], [ {left.ref}, %{spin.label} ]")
    f.cbr(f.cmp("sgt", left, i64(0)), look, sleep)
    f.current = sleep
    pool.add(i32(1), SLEEPERS)
    f.br(again)
    f.current = again  # the kernel compares EPOCH with `seen`, so a region that starts just now is not missed
    _futex(f, futex, FUTEX_WAIT_PRIVATE, seen)
    awake = f.block("awake")
    f.cbr(f.cmp("eq", pool.get(EPOCH, "i32", "seq_cst"), seen), again, awake)
    f.current = awake
    pool.add(i32(-1), SLEEPERS)
    f.br(work)


def _start(m: Module) -> None:
    """void tf_pool_start(i64 threads): makes the missing workers, with all signals blocked. Called with BUSY held."""
    f = m.function("tf_pool_start", "void", [("i64", "threads")], "nounwind noinline", "internal")
    pool, (threads,) = _Pool(f), f.args
    everything, saved = f.alloca("i8", SIGSET_BYTES), f.alloca("i8", SIGSET_BYTES)
    handle = f.alloca("i64")
    f.call("llvm.memset.p0.i64", "void", everything, Val("-1", "i8"), i64(SIGSET_BYTES), Val("false", "i1"))
    f.call("pthread_sigmask", "i32", i32(SIG_SETMASK), everything, saved)
    with f.loop(f.add(pool.get(STARTED), i64(1)), threads) as missing:
        arg = f.convert("inttoptr", missing.index, "ptr")
        null, entry = Val("null", "ptr"), WORKER
        failed = f.call("pthread_create", "i32", handle, null, entry, arg)
        ok = f.cmp("eq", failed, i32(0))
        with f.when(ok):
            f.call("pthread_detach", "i32", f.load("i64", handle))
            pool.put(missing.index, STARTED)
        with f.when(f.cmp("ne", failed, i32(0))):  # no more threads to be had: go on with those there are
            pool.put(f.add(pool.get(STARTED), i64(1)), THREADS)
    f.call("pthread_sigmask", "i32", i32(SIG_SETMASK), saved, Val("null", "ptr"))
    f.ret()


KERNEL_ARGS = [("ptr", "fn"), ("ptr", "bufs"), ("ptr", "dims"), ("i64", "tasks"), ("i64", "grain")]


def _parallel(m: Module, arch: str, futex: int) -> None:
    f = m.function("tf_parallel", "void", KERNEL_ARGS, "nounwind")
    pool, (fn, bufs, dims, tasks, grain) = _Pool(f), f.args
    threads = pool.get(THREADS)
    inline, ask, region, finished = f.block("inline"), f.block("ask"), f.block("region"), f.block("finished")
    alone = f.cmp("sle", threads, i64(1))
    small = f.cmp("sle", tasks, grain)
    f.cbr(f.emit("i1", f"or i1 {alone.ref}, {small.ref}"), inline, ask)

    f.current = inline
    with f.when(f.cmp("sgt", tasks, i64(0))):
        f.call_pointer(fn, "void", bufs, dims, i64(0), tasks, i64(0))
    f.ret()

    f.current = ask  # whoever finds the pool busy, a nested region included, does its tasks itself
    swapped = f.emit("{ i64, i1 }", f"cmpxchg {pool.at(BUSY)}, i64 0, i64 1 acquire monotonic")
    f.cbr(f.emit("i1", f"extractvalue {{ i64, i1 }} {swapped.ref}, 1"), region, inline)

    f.current = region
    with f.when(f.cmp("slt", f.add(pool.get(STARTED), i64(1)), threads)):
        f.call_pointer(START, "void", threads)
    wanted = f.mul(threads, i64(CHUNKS_PER_THREAD))
    share = f.binary("udiv", f.sub(f.add(tasks, wanted), i64(1)), wanted)
    chunk = f.intrinsic("smax", "i64", share, f.intrinsic("smax", "i64", grain, i64(1)))
    chunks = f.binary("udiv", f.sub(f.add(tasks, chunk), i64(1)), chunk)
    used = f.intrinsic("smin", "i64", threads, chunks)
    for value, word in ((fn, FN), (bufs, BUFS), (dims, DIMS), (tasks, TASKS), (chunk, CHUNK), (used, USED)):
        pool.put(value, word)
    pool.put(i64(0), COMPLETED)
    epoch = f.add(pool.get(EPOCH, "i32"), i32(1))
    high = f.binary("shl", f.convert("zext", epoch, "i64"), i64(32))
    with f.loop(i64(0), used, carried=[i64(0)], at_least_once=True) as owners:
        limit = f.binary("udiv", f.mul(f.add(owners.index, i64(1)), chunks), used)
        low = f.binary("or", f.binary("shl", owners.carried[0], i64(16)), limit)
        ticket = pool.ticket(owners.index)
        f.do(f"store atomic {f.binary('or', high, low)}, {ticket} release, align 8")
        owners.next = [limit]
    pool.add(i32(1), EPOCH)
    with f.when(f.cmp("ne", pool.get(SLEEPERS, "i32", "seq_cst"), i32(0))):
        _futex(f, futex, FUTEX_WAKE_PRIVATE, f.convert("trunc", f.sub(used, i64(1)), "i32"))
    mine = f.call_pointer(WORK, "i64", i64(0))
    spins = pool.get(SPINS)
    before = f.current
    look, wait, relax, give_way, latch = (f.block(n) for n in ("look", "wait", "relax", "yield", "latch"))
    f.br(look)
    f.current = look
    done = f.add(pool.get(COMPLETED, "i64", "acquire"), mine)
    f.cbr(f.cmp("eq", done, chunks), finished, wait)
    f.current = wait
    left = f.sub(Val("%left", "i64"), i64(1))
    f.cbr(f.cmp("sgt", left, i64(0)), relax, give_way)
    f.current = relax
    _relax(f, arch)
    f.br(latch)
    f.current = give_way  # a worker lost its core in the middle of a chunk
    f.call("sched_yield", "i32")
    f.br(latch)
    f.current = latch
    f.br(look)
    look.lines.insert(0, f"  %left = phi i64 [ {spins.ref}, %{before.label} ], [ {left.ref}, %{latch.label} ]")
    f.current = finished
    pool.put(i64(0), BUSY, "release")
    f.ret()


def _controls(m: Module, arch: str) -> None:
    f = m.function("tf_pool_get_threads", "i64", [], "nounwind")
    f.ret(_Pool(f).get(THREADS))
    f = m.function("tf_pool_set", "void", [("i64", "threads"), ("i64", "spins")], "nounwind")
    _Pool(f).put(f.args[0], THREADS)
    _Pool(f).put(f.args[1], SPINS)
    f.ret()
    f = m.function("tf_pool_workers", "i64", [], "nounwind")
    f.ret(_Pool(f).get(STARTED))
    # after a fork: the workers stayed with the parent, and so did whoever was inside a region
    f = m.function("tf_pool_reset", "void", [], "nounwind")
    for word in (SLEEPERS, BUSY, COMPLETED, STARTED):
        _Pool(f).put(i64(0), word)
    with f.loop(i64(0), i64(CAPACITY)) as each:
        f.store(i64(0), _Pool(f).ticket(each.index))
    f.ret()
    f = m.function("tf_pool_spin", "void", [("i64", "rounds")], "nounwind")
    with f.loop(i64(0), f.args[0]) as _:
        _relax(f, arch)
        f.do('call void asm sideeffect "", ""()')  # keeps the loop where there is no such hint
    f.ret()


def pool_text(arch: str, futex: int) -> str:
    """The module. `futex`: the system call's number."""
    m = Module()
    m.add_global(f"@tf_pool = internal global [{TICKETS + CAPACITY * LINE} x i64] zeroinitializer, align 128")
    _run_chunks(m)
    _worker(m, arch, futex)
    _start(m)
    _parallel(m, arch, futex)
    _controls(m, arch)
    return str(m)


def sequential_text() -> str:
    """`tf_parallel` for systems whose waiting primitive is not known: the caller does everything."""
    m = Module()
    f = m.function("tf_parallel", "void", KERNEL_ARGS, "nounwind")
    fn, bufs, dims, tasks, _ = f.args
    with f.when(f.cmp("sgt", tasks, i64(0))):
        f.call_pointer(fn, "void", bufs, dims, i64(0), tasks, i64(0))
    f.ret()
    return str(m)
