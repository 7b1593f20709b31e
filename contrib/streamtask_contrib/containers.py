"""What FFmpeg may open when it is given somebody's upload: files that hold their sound themselves, and nothing else.

Others of its formats (playlists, "ffconcat", SDP) are texts that have it read further files of this machine, or listen
to the network. Importing this module imports no library of sound.
"""

from __future__ import annotations

#: For `av.open(file, mode="r", options=CONTAINERS_ONLY)`.
CONTAINERS_ONLY = {
    "format_whitelist": (
        "aac,ac3,aiff,amr,ape,asf,au,avi,caf,eac3,flac,flv,gsm,matroska,mov,mp3,mpeg,mpegts,ogg,s16le,tta,voc,w64,wav,wv"
    ),
    "protocol_whitelist": "none",
}
