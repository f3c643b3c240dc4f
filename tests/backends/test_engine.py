"""Text becomes objects, objects become code, and code goes away again."""

import ctypes
import gc
import threading
import weakref

import pytest
from tracefuse.backends.llvm import engine
from tracefuse.backends.llvm.builder import Module, i64
from tracefuse.ir import target as targets

TARGET = engine.host_target()


def adder(name: str = "add", constant: int = 3) -> str:
    m = Module()
    f = m.function(name, "i64", [("i64", "x")], "nounwind")
    f.ret(f.add(f.args[0], i64(constant)))
    return str(m)


def call(code: engine.Code, name: str, x: int) -> int:
    return ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(code.address(name))(x)


def test_text_runs():
    code = engine.link([engine.compile_object(adder(), TARGET)])
    assert call(code, "add", 4) == 7


@pytest.mark.parametrize("opt", [0, 1, 2, 3])
def test_every_level_runs(opt):
    assert call(engine.link([engine.compile_object(adder(), TARGET, opt)]), "add", 4) == 7


def test_objects_see_each_other_and_given_symbols():
    caller = "declare i64 @add(i64)\ndeclare i64 @host(i64)\ndefine i64 @both(i64 %x) {\n %a = call i64 @add(i64 %x)\n"
    caller += " %b = call i64 @host(i64 %a)\n ret i64 %b\n}\n"
    double = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(lambda x: 2 * x)
    objects = [engine.compile_object(t, TARGET) for t in (adder(), caller)]
    assert engine.undefined_symbols(objects[1]) == {"add", "host"}
    assert engine.defined_symbols(objects[0]) == {"add"}
    code = engine.link(objects, {"host": ctypes.cast(double, ctypes.c_void_p).value or 0})
    assert call(code, "both", 4) == 14


def test_equal_names_in_two_engines_do_not_meet():
    codes = [engine.link([engine.compile_object(adder(constant=k), TARGET)]) for k in (1, 2)]
    assert [call(c, "add", 0) for c in codes] == [1, 2]


def test_open_symbols_are_an_error_and_not_the_end_of_the_process():
    text = "declare void @nobody_has_this()\ndefine void @f() {\n call void @nobody_has_this()\n ret void\n}\n"
    data = engine.compile_object(text, TARGET)
    with pytest.raises(engine.LinkError, match="nobody_has_this"):
        engine.link([data])


@pytest.mark.parametrize("text", ["define void @f( {", "define i32 @f() {\n ret i64 0\n}", "define void @f() {\n}"])
def test_bad_text_is_a_compile_error_with_the_text(text):
    with pytest.raises(engine.CompileError) as error:
        engine.compile_object(text, TARGET)
    assert error.value.text == text


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"MZ" * 100, b"\x7fELF\x02\x01" + b"\xff" * 60])
def test_what_is_no_object_does_not_link(data):
    with pytest.raises(engine.LinkError):
        engine.undefined_symbols(data)
    with pytest.raises(engine.LinkError):
        engine.link([data])


def test_an_object_for_another_machine_does_not_link():
    other = targets.NEON if TARGET.triple.startswith("x86_64") else targets.AVX2
    with pytest.raises(engine.LinkError, match="not an object for"):
        engine.link([engine.compile_object(adder(), other)])


def test_a_cut_object_does_not_link():
    data = engine.compile_object(adder(), TARGET)
    with pytest.raises(engine.LinkError):
        engine.link([data[: len(data) // 2]])


def test_unknown_address():
    code = engine.link([engine.compile_object(adder(), TARGET)])
    with pytest.raises(KeyError):
        code.address("subtract")


def test_closing():
    code = engine.link([engine.compile_object(adder(), TARGET)])
    code.close()
    code.close()
    assert code.closed
    with pytest.raises(RuntimeError):
        code.address("add")


def test_code_goes_with_its_last_reference():
    code = engine.link([engine.compile_object(adder(), TARGET)])
    gone = weakref.ref(code._engine)
    del code
    gc.collect()
    assert gone() is None


def test_objects_are_the_same_each_time():
    assert engine.compile_object(adder(), TARGET) == engine.compile_object(adder(), TARGET)


def test_memory_functions_are_all_that_a_copy_needs():
    text = "declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)\ndefine void @f(ptr %a, ptr %b, i64 %n) {\n"
    text += " call void @llvm.memcpy.p0.p0.i64(ptr %a, ptr %b, i64 %n, i1 false)\n ret void\n}\n"
    data = engine.compile_object(text, TARGET)
    assert engine.undefined_symbols(data) <= engine.ALLOWED_UNDEFINED
    engine.link([data]).close()


@pytest.mark.parametrize("target", [targets.AVX512, targets.AVX2, targets.NEON], ids=lambda t: t.isa)
def test_other_machines(target):
    assert engine.defined_symbols(engine.compile_object(adder(), target)) == {"add"}
    assert "add" in engine.emit_assembly(adder(), target)


def test_targets():
    assert engine.host_target("scalar").isa == "scalar"
    assert TARGET.l1 >= 8 << 10 and TARGET.l2 > TARGET.l1
    with pytest.raises(ValueError, match="TRACEFUSE_TARGET"):
        engine.host_target("sse9")


def test_threads_compile_at_once():
    errors: list[BaseException] = []

    def work(k: int) -> None:
        try:
            for i in range(5):
                code = engine.link([engine.compile_object(adder(constant=10 * k + i), TARGET)])
                assert call(code, "add", 0) == 10 * k + i
                code.close()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors
