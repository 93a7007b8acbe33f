"""What figures are made of: style, words and units, colours by variable, coastlines, maps and curves."""
