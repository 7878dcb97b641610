"""Packages that only some of the functions need, imported when one of these is called."""


def require_matplotlib():
    """Import matplotlib, or raise an ImportError that says how to install it."""
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError(f"the figures need matplotlib ({error}): pip install matplotlib") from error
    return matplotlib


def require_distributed():
    """Import distributed, or raise an ImportError that says how to install it."""
    try:
        import distributed
    except ImportError as error:
        raise ImportError(f"workers need the package distributed ({error}): pip install distributed") from error
    return distributed
