"""The built package, run by Lambda's own runtime client: all of `sam local` but the container."""
