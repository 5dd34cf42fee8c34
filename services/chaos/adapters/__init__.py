"""How the chaos service reaches the outside."""
