"""Makes `meeting.wav`, the recording that `voice_activity.py` listens to. Needs espeak-ng, which speaks the sentences.

Run it with `python examples/make_wav.py [OUT.wav]`; it prints when each sentence begins and ends.
"""

import argparse
import io
import shutil
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
from faster_whisper.audio import decode_audio

RATE = 16_000  # samples a second, one channel of 16 bits each
PAUSE_BEFORE = 1.0  # seconds of silence before the first sentence

# Who says what (a voice of espeak-ng), and the seconds of silence after it.
SENTENCES = [
    ("en", "Good morning, and welcome to the meeting.", 1.5),
    ("en+f3", "The first item is the budget for next year.", 1.0),
    ("en", "Are there any questions before we begin?", 0.5),
]


def speak(voice: str, text: str) -> np.ndarray:
    """One spoken sentence, without the silence that espeak-ng puts around it; samples between -1 and 1."""
    command = ["espeak-ng", "--stdout", "-v", voice, "-s", "150", text]
    spoken = subprocess.run(command, check=True, capture_output=True).stdout
    samples = decode_audio(io.BytesIO(spoken), RATE)
    loud = np.flatnonzero(np.abs(samples) > 0.01)
    return samples[loud[0] : loud[-1] + 1]


def silence(seconds: float) -> np.ndarray:
    """Nothing to hear."""
    return np.zeros(round(seconds * RATE), np.float32)


def main() -> None:
    """Speak the sentences, put silence between them, write the file."""
    parser = argparse.ArgumentParser(description="Make a recording of a meeting.")
    parser.add_argument("out", nargs="?", type=Path, default=Path(__file__).with_name("meeting.wav"))
    out = parser.parse_args().out
    if shutil.which("espeak-ng") is None:
        sys.exit("espeak-ng is missing (Debian and Ubuntu: `apt-get install espeak-ng`)")

    pieces = [silence(PAUSE_BEFORE)]
    for voice, text, pause in SENTENCES:
        begin = sum(map(len, pieces)) / RATE
        pieces.append(speak(voice, text))
        end = sum(map(len, pieces)) / RATE
        pieces.append(silence(pause))
        print(f"{begin:.2f} s - {end:.2f} s  {text}")

    samples = (np.concatenate(pieces) * 32767).astype("<i2")
    with wave.open(str(out), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(samples.tobytes())


if __name__ == "__main__":
    main()
