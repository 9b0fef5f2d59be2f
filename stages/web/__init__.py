"""Pictures from the open web: fetched politely, safely, and with a reason for every one missed."""
