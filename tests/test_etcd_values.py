"""What goes to etcd: how a row of operations is cut into transactions."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vulcanized.etcd import Delete, Operation, Put
from vulcanized.etcd.values import MAX_OPERATIONS, MAX_TRANSACTION_BYTES, chunks, prefix_end

_keys = st.sampled_from([f"/k/{number}" for number in range(200)])
_values = st.integers(0, MAX_TRANSACTION_BYTES // 2).map(bytes)
_operations = st.lists(st.builds(Put, _keys, _values) | st.builds(Delete, _keys), max_size=400)


@given(_operations)
def test_every_operation_is_in_a_transaction_in_its_order(operations: list[Operation]) -> None:
    assert [operation for chunk in chunks(operations) for operation in chunk] == operations


@given(_operations)
def test_no_transaction_is_more_than_etcd_takes(operations: list[Operation]) -> None:
    for chunk in chunks(operations):
        keys = [operation.key for operation in chunk]
        size = sum(len(each.key) + len(getattr(each, "value", b"")) for each in chunk)
        assert 0 < len(chunk) <= MAX_OPERATIONS
        assert len(set(keys)) == len(keys)
        assert size <= MAX_TRANSACTION_BYTES


def test_a_value_that_is_too_large_goes_alone() -> None:
    large = Put("/b", bytes(MAX_TRANSACTION_BYTES))

    cut = list(chunks([Put("/a", b""), large, Put("/c", b"")]))

    assert cut == [(Put("/a", b""),), (large,), (Put("/c", b""),)]


@given(st.text(min_size=1), st.text())
def test_a_prefix_ends_after_all_keys_that_start_with_it(prefix: str, key: str) -> None:
    def inside(text: str) -> bool:
        return prefix.encode() <= text.encode() < prefix_end(prefix)

    assert inside(prefix + key)
    assert inside(key) == key.startswith(prefix)
