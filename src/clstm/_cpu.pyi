"""What this processor, and the operating system on it, can run."""

FEATURES: tuple[str, ...]
REQUIRED: dict[str, tuple[str, ...]]

def features() -> tuple[str, ...]: ...
def supports(isa: str) -> bool: ...
