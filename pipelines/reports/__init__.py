"""What a run tells: its page, its plots, its datasheet."""
