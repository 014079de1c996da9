package transport

import "errors"

// EncodeParams makes the query of a connection's parameters as phoenix.js does: see ClientConfig.Params.
func EncodeParams(v any) (string, error) {
	return "", errors.New("transport: not yet")
}
