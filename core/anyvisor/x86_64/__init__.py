"""x86_64 boot primitives, usable on their own: nothing in here needs a hypervisor."""
