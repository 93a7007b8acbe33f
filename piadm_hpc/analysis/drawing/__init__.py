"""Elements of figures: style, labels and units, colours by variable, coastlines, maps and curves."""
