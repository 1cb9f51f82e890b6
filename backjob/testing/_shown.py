"""What an error shows of itself wherever it is logged or reported."""

from __future__ import annotations


def shown(error: BaseException) -> str:
    """Return all texts of an error, and of those that Python shows with it: its causes and contexts."""
    texts: list[str] = []
    chain: list[BaseException] = [error]
    for one in chain:
        texts += [str(one), repr(one), *getattr(one, "__notes__", ())]
        origin = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
        if origin is not None and all(origin is not earlier for earlier in chain):
            chain.append(origin)
    return "\n".join(texts)
