"""What is made: a directory that is whole or not there, and the files in it."""
