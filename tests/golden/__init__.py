"""How every version of every message looks on the wire.

``events/NAME.N.json`` and ``commands/NAME.N.json`` hold version N of a message, ``envelopes/`` what stands around
them. What was once written stays as it is: old logs hold it. Where an upcaster turns an old version into another
shape, ``NAME.N.expected.json`` says how the result is encoded today; without that file it is encoded as it was.
"""
