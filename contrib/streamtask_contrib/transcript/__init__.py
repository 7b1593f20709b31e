"""From the results of chunks to transcripts: stitching, what is stable of live words, file formats, stored sessions."""

from streamtask_contrib.transcript import formats
from streamtask_contrib.transcript.agreement import Agreement
from streamtask_contrib.transcript.seams import edge_words, keep_own_words
from streamtask_contrib.transcript.sessions import SessionFacts, Sessions, SessionState
from streamtask_contrib.transcript.stitching import Transcript, Translation, stitch, translated
from streamtask_contrib.transcript.worker import router

__all__ = [
    "Agreement",
    "SessionFacts",
    "SessionState",
    "Sessions",
    "Transcript",
    "Translation",
    "edge_words",
    "formats",
    "keep_own_words",
    "router",
    "stitch",
    "translated",
]
