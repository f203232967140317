"""The laws that adapters are held to, one function each."""
