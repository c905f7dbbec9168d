"""How k of a layer's d neurons are picked."""
