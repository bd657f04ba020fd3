"""What holds for the whole kit: how it is built, what its pages and messages say, what scripts refuse; make."""
