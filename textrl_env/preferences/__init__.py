"""Human feedback: what people say of responses, where it is kept, and how it is exchanged."""
