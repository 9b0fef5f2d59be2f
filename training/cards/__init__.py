"""What model cards say of loading each kind of export."""
