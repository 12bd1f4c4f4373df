"""Draw catalogue packshots, one function per product category.

A product is drawn on a `Sketch` in its own coordinates (origin in the middle of the picture, one
unit per final pixel, y downwards) out of the colours and the cloth of a `Look`. Every `draw_*`
function returns the words a shop would use for the shape it chose, for instance "Polo T-shirt".

Everything random comes from one generator, so equal seeds give equal pictures.
"""
