"""The annotation page: a local web server that shows people questions and stores what they answer."""
