class Monitor:
    """x"""
