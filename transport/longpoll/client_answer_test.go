package longpoll

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"bennu.example/serializer"
	"bennu.example/transport"
)

// A body is parsed as encoding/json does, and no frame exceeds the bound.
func FuzzClientAnswer(f *testing.F) {
	for _, s := range []string{
		`{"status":200,"token":"T","messages":["[1,2,3,4,{}]","AAE=","\u0001\u0000raw","","not base64!"]}`,
		`{"status":200,"token":"T","messages":["{\"a\":\"\ud83d\ude00\"}"]}`,
		`{"status":410,"token":"T","messages":[]}`, `{"status":204,"messages":null}`, `{"status":200,"messages":[null,"x"]}`,
		`{"status":200,"messages":{"a":1}}`, `{"status":200,"messages":[["a"]]}`, `{"STATUS":200,"status":"x"}`,
		`null`, `[]`, ``, `{"messages":["` + strings.Repeat("A", 200) + `"]}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		const max = 100
		a, err := parseAnswer(body, max)
		var model struct {
			Status   int
			Token    string
			Messages []string
		}
		wrong := json.Unmarshal(body, &model)
		var closed *transport.CloseError
		if err != nil {
			if !errors.As(err, &closed) && wrong == nil {
				t.Fatalf("%q: %v", body, err)
			}
			return
		}
		if wrong != nil {
			t.Fatalf("%q: no error, but %v", body, wrong)
		}
		if a.Status != model.Status || a.Token != model.Token {
			t.Fatalf("%q: %d %q, want %d %q", body, a.Status, a.Token, model.Status, model.Token)
		}
		var texts []string
		for _, m := range model.Messages {
			if m != "" {
				texts = append(texts, m)
			}
		}
		if len(texts) != len(a.Messages) {
			t.Fatalf("%q: %d frames, want %d", body, len(a.Messages), len(texts))
		}
		for i, f := range a.Messages {
			if len(f.data) > max {
				t.Fatalf("%q: a frame of %d bytes", body, len(f.data))
			}
			switch {
			case string(f.data) == texts[i]:
			case f.op != serializer.OpBinary:
				t.Fatalf("%q: text %q, want %q", body, f.data, texts[i])
			default:
				if raw, err := base64.StdEncoding.DecodeString(texts[i]); err != nil || !bytes.Equal(raw, f.data) {
					t.Fatalf("%q: binary %q, want %q", body, f.data, texts[i])
				}
			}
		}
	})
}

// An answer of many tiny messages must not take many times its size.
func TestClientBoundsMessagesOfAnswer(t *testing.T) {
	t.Parallel()
	body := []byte(`{"status":200,"messages":["x"` + strings.Repeat(`,"x"`, maxAnswerFrames) + `]}`)
	_, err := parseAnswer(body, 1<<20)
	var closed *transport.CloseError
	if !errors.As(err, &closed) || closed.Code != transport.CodeTooBig {
		t.Errorf("%d messages: %v", maxAnswerFrames+1, err)
	}
}
