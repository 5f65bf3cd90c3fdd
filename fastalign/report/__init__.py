"""Pictures and the HTML page: what a person looks at after a run.

``heat`` colours score maps, ``contour`` outlines masks, ``charts`` draws curves, ``gallery`` keeps
the pictures of a run and ``page`` puts everything into one HTML file.
"""
