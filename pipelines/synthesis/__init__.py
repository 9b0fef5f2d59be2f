"""How people who do not exist are planned, drawn and measured."""
