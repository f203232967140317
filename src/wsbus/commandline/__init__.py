"""The commands ``wsbus tail``, ``pub``, ``call`` and ``token``; what one needs is imported then."""
