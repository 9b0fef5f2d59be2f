"""What is kept of video jobs, and of what happened to them."""

from sqlalchemy import (
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

TABLES = MetaData()
VIDEOS = Table(
    "videos", TABLES,
    Column("id", String(64), primary_key=True),
    Column("owner", String(32), nullable=False),
    # What was asked.
    Column("idempotency_key", String(255)),
    Column("fingerprint", String(64), nullable=False),
    Column("request_id", String(64), nullable=False),
    Column("asked", Text, nullable=False),
    Column("person", String(64), nullable=False, index=True),
    Column("vector", LargeBinary),
    Column("face", LargeBinary),
    Column("embedder", String(128), nullable=False),
    # How it is.
    Column("status", String(16), nullable=False),
    Column("created", Float(53), nullable=False),
    Column("ended", Float(53)),
    Column("expires", Float(53), nullable=False, index=True),
    Column("error_code", String(64), nullable=False),
    Column("error_message", Text, nullable=False),
    # Who draws it, and how far.
    Column("fence", Integer, nullable=False),
    Column("attempt_id", String(32), nullable=False),
    Column("lease_until", Float(53), nullable=False),
    Column("done", Integer, nullable=False),
    Column("next_step", Integer, nullable=False),
    Column("steps", Integer, nullable=False),
    Column("checkpoint_ref", String(128), nullable=False),
    Column("result_ref", String(128), nullable=False),
    Column("kept", Integer, nullable=False),
    Column("events", Integer, nullable=False),
    UniqueConstraint("owner", "idempotency_key"),
    Index("videos_to_draw", "status", "lease_until"),
    Index("videos_by_owner", "owner", "created"),
)  # fmt: skip
"""Jobs. ``fence`` counts attempts: what an attempt writes names its own, so that an older one can
write no more. ``lease_until``: of a job in progress, when another worker may take it; of a queued
one, when it may be begun. ``vector``: of uploaded photographs, until the job has ended, and
``face`` (PNG) the first one's, for models that look at it; of the enrolled nothing is copied.
``steps``: how many there are; ``done``: how many are drawn; ``next_step``: from where another
worker would go on. ``kept``: prompt and result are there still.
"""
EVENTS = Table(
    "video_events", TABLES,
    Column("video", ForeignKey("videos.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("at", Float(53), nullable=False),
    Column("status", String(16), nullable=False),
    Column("progress", Integer, nullable=False),
)  # fmt: skip
"""What happened to each, counted from 1."""
ALIVE = ("queued", "in_progress")
