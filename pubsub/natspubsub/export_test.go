package natspubsub

// Token is token.
func Token(name string) string { return token(name) }
