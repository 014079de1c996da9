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

// The statuses in the bodies of long poll's answers.
const (
	lpOK        = 200
	lpNothing   = 204
	lpForbidden = 403
	lpGone      = 410
)

var errLPNoAnswer = errors.New("what answers is no long-poll endpoint")

// lpAnswer is the body of any answer.
type lpAnswer struct {
	Status   int      `json:"status"`
	Token    string   `json:"token"`
	Messages lpFrames `json:"messages"`
}

// lpFrames are an answer's messages.
type lpFrames []lpFrame

type lpFrame struct {
	op   serializer.Op
	data []byte
}

// lpMaxFrames is how many messages are taken from one answer. Without it, small ones would take much more memory than the answer.
const lpMaxFrames = 1 << 18

// UnmarshalJSON is given valid JSON.
func (l *lpFrames) UnmarshalJSON(text []byte) error {
	if string(text) == "null" {
		return nil
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	if start, _ := dec.Token(); start != json.Delim('[') {
		return errLPNoAnswer
	}
	for dec.More() {
		var s string
		if err := dec.Decode(&s); err != nil {
			return err
		}
		if len(*l) == lpMaxFrames {
			return &transport.CloseError{Code: transport.CodeTooBig, Reason: "too many messages"}
		}
		if s != "" {
			*l = append(*l, lpFrameOf(s))
		}
	}
	return nil
}

// lpFrameOf is the frame that s carries. A text frame begins with a bracket. A binary frame is base64 from our server, and from
// Phoenix its bytes themselves, of which the first is 0, 1 or 2; Phoenix can send it only if they happen to be UTF-8. Anything
// else is left to the serializer to refuse.
func lpFrameOf(s string) lpFrame {
	switch {
	case s[0] == '[' || s[0] == '{':
		return lpFrame{serializer.OpText, []byte(s)}
	case s[0] <= 2:
		return lpFrame{serializer.OpBinary, []byte(s)}
	}
	data, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		return lpFrame{serializer.OpText, []byte(s)}
	}
	return lpFrame{serializer.OpBinary, data}
}

// parseLPAnswer reads a body. Messages longer than max are refused.
func parseLPAnswer(body []byte, max int64) (lpAnswer, error) {
	var a lpAnswer
	if err := json.Unmarshal(body, &a); err != nil {
		return lpAnswer{}, fmt.Errorf("transport: %w: %w", errLPNoAnswer, err)
	}
	for _, f := range a.Messages {
		if int64(len(f.data)) > max {
			return lpAnswer{}, &transport.CloseError{Code: transport.CodeTooBig, Reason: "message too big"}
		}
	}
	return a, nil
}
