package channel

import (
	"encoding/json"
	"strings"

	"bennu.example/history"
	"bennu.example/serializer"
)

// maxLast is the largest value of "last". A join replays at most Keep.MaxReplay records anyway.
const maxLast = 1_000_000

// historyParams is what the params of a join ask of the history.
type historyParams struct {
	asked bool
	since history.Position // zero: none
	last  int
	own   bool // replay the client's own events
}

// cutHistory returns the member "$history" of the params of a join, and the params without it. A
// reason is that of the error reply for a malformed member.
func cutHistory(params serializer.Payload) (h historyParams, rest serializer.Payload, reason string) {
	raw := params.Bytes()
	if since, ok := sinceIn(raw, `{"`+memberHistory+`":{"since":"`, `"}}`); ok && !params.IsBinary() {
		return historyParams{asked: true, own: true, since: since}, emptyParams, ""
	}
	if !mayHave(params, memberHistory) {
		return h, params, ""
	}
	value, rest, found := params.Cut(memberHistory)
	if !found {
		return h, params, ""
	}
	h, reason = parseHistory(value)
	return h, rest, reason
}

// emptyParams are params without a member.
var emptyParams = func() (p serializer.Payload) {
	_ = p.UnmarshalJSON([]byte("{}")) // never fails
	return p
}()

// sinceIn returns the position between prefix and suffix, if raw consists of the three.
func sinceIn(raw []byte, prefix, suffix string) (since history.Position, ok bool) {
	n := len(raw) - len(suffix)
	if n <= len(prefix) || n > len(prefix)+maxPositionText ||
		string(raw[:len(prefix)]) != prefix || string(raw[n:]) != suffix {
		return since, false
	}
	since, err := history.ParsePosition(string(raw[len(prefix):n]))
	return since, err == nil
}

const invalidHistory = "invalid history"

func parseHistory(value serializer.Payload) (h historyParams, reason string) {
	raw, err := value.JSON()
	if err != nil {
		return historyParams{asked: true}, invalidHistory
	}
	// The usual forms need no decoder.
	if since, ok := sinceIn(raw, `{"since":"`, `"}`); ok {
		return historyParams{asked: true, own: true, since: since}, ""
	}
	if string(raw) == "{}" {
		return historyParams{asked: true, own: true}, ""
	}
	return decodeHistory(raw)
}

func decodeHistory(raw []byte) (h historyParams, reason string) {
	h = historyParams{asked: true, own: true}
	var members map[string]json.RawMessage
	if json.Unmarshal(raw, &members) != nil || members == nil {
		return h, invalidHistory
	}
	if v, ok := members["last"]; ok {
		if json.Unmarshal(v, &h.last) != nil || string(v) == "null" || h.last < 0 || h.last > maxLast {
			return h, invalidHistory
		}
	}
	if v, ok := members["own"]; ok {
		if h.own = string(v) == "true"; !h.own && string(v) != "false" {
			return h, invalidHistory
		}
	}
	if v, ok := members["since"]; ok && string(v) != "null" {
		if h.since, ok = position(v); !ok {
			return h, invalidPosition
		}
	}
	return h, ""
}

// position returns the position in a JSON value.
func position(v json.RawMessage) (history.Position, bool) {
	if !strings.HasPrefix(string(v[:1]), `"`) || len(v) > maxPositionText {
		return history.Position{}, false
	}
	var text string
	if json.Unmarshal(v, &text) != nil {
		return history.Position{}, false
	}
	p, err := history.ParsePosition(text)
	return p, err == nil
}

// maxPositionText bounds the JSON text of a position: each character may be escaped.
const maxPositionText = 2 + 6*48
