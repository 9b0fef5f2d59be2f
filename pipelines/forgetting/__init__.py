"""How a person is taken out of all that a store holds."""
