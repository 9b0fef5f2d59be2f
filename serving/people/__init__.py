"""Who is enrolled and may be drawn, with whose consent; and whom nobody may draw."""
