package socket

import (
	"encoding/base64"
	"errors"
	"net/http"
	"strings"
)

// tokenPrefix marks the subprotocol in which phoenix.js sends its authToken. Despite its name,
// base64 of the standard alphabet follows.
const tokenPrefix = "base64url.bearer.phx."

var (
	errProtocol = errors.New("socket: no subprotocol in common")
	errToken    = errors.New("socket: auth token is not base64")
)

// subprotocols parses the client's offer. It returns the auth token, if it is enabled and there is
// exactly one, and the protocol for the answer.
func (h *Handler) subprotocols(r *http.Request) (token, protocol string, err error) {
	allowed := h.cfg.Subprotocols
	if !h.cfg.AuthToken && allowed == nil {
		return "", "", nil
	}
	if h.cfg.AuthToken {
		allowed = append([]string{"phoenix"}, allowed...)
	}
	header := r.Header.Get("Sec-WebSocket-Protocol") // the first line only, as in Phoenix
	if header == "" {
		return "", "", nil
	}
	var offered, tokens []string
	for p := range strings.SplitSeq(header, ",") {
		p = strings.TrimSpace(p)
		if t, ok := strings.CutPrefix(p, tokenPrefix); ok && h.cfg.AuthToken {
			tokens = append(tokens, t)
			continue
		}
		offered = append(offered, p)
	}
	if len(tokens) == 1 {
		b, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(tokens[0], "="))
		if err != nil {
			return "", "", errToken
		}
		token = string(b)
	}
	if len(offered) == 0 {
		return token, "", nil
	}
	for _, a := range allowed {
		for _, o := range offered {
			if a == o {
				return token, a, nil
			}
		}
	}
	return "", "", errProtocol
}
