"""Where a picture is from: signed credentials, and a mark in its pixels."""
