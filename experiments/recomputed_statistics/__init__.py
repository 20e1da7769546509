"""Moving statistics taken anew: after weights were averaged, and on data of another kind."""
