package longpoll

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	"bennu.example/serializer"
	"bennu.example/transport"
)

// errNotLongPoll means that an answer is not one of a long-poll endpoint.
var errNotLongPoll = errors.New("not a long-poll answer")

// clientAnswer is the body of an answer.
type clientAnswer struct {
	Status   int          `json:"status"`
	Token    string       `json:"token"`
	Messages clientFrames `json:"messages"`
}

// clientFrames are the messages of an answer.
type clientFrames []clientFrame

type clientFrame struct {
	op   serializer.Op
	data []byte
}

// maxAnswerFrames bounds the messages of one answer. Many small messages would take much more
// memory than the answer.
const maxAnswerFrames = 1 << 18

// UnmarshalJSON implements json.Unmarshaler.
func (l *clientFrames) UnmarshalJSON(text []byte) error {
	if string(text) == "null" {
		return nil
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	if start, _ := dec.Token(); start != json.Delim('[') {
		return errNotLongPoll
	}
	for dec.More() {
		var s string
		if err := dec.Decode(&s); err != nil {
			return err
		}
		if len(*l) == maxAnswerFrames {
			return &transport.CloseError{Code: transport.CodeTooBig, Reason: "too many messages"}
		}
		if s != "" {
			*l = append(*l, clientFrameFor(s))
		}
	}
	return nil
}

// clientFrameFor returns the frame that is encoded in s, which must not be empty.
//
// A text frame begins with a bracket. A binary frame is base64 if this project's server sent it.
// Phoenix sends the bytes themselves, if they happen to be UTF-8; the first is 0, 1 or 2. Anything
// else is passed on as text, which the serializer refuses.
func clientFrameFor(s string) clientFrame {
	switch {
	case s[0] == '[' || s[0] == '{':
		return clientFrame{serializer.OpText, []byte(s)}
	case s[0] <= 2:
		return clientFrame{serializer.OpBinary, []byte(s)}
	}
	data, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		return clientFrame{serializer.OpText, []byte(s)}
	}
	return clientFrame{serializer.OpBinary, data}
}

// parseAnswer parses the body of an answer. It refuses messages longer than max.
func parseAnswer(body []byte, max int64) (clientAnswer, error) {
	var a clientAnswer
	if err := json.Unmarshal(body, &a); err != nil {
		return clientAnswer{}, fmt.Errorf("longpoll: %w: %w", errNotLongPoll, err)
	}
	for _, f := range a.Messages {
		if int64(len(f.data)) > max {
			return clientAnswer{}, &transport.CloseError{Code: transport.CodeTooBig, Reason: "message too big"}
		}
	}
	return a, nil
}
