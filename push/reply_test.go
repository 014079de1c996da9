package push_test

import (
	"errors"
	"fmt"
	"testing"

	"bennu.example/push"
	"bennu.example/serializer"
)

func TestIsZero(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		reply push.Reply
		zero  bool
	}{
		"no reply":     {push.NoReply, true},
		"ok":           {push.OK(nil), false},
		"status only":  {push.Reply{Status: "maybe"}, false},
		"payload only": {push.Reply{Payload: 1}, false},
	} {
		if test.reply.IsZero() != test.zero {
			t.Errorf("%s: %v", name, test.reply.IsZero())
		}
	}
}

func TestReject(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		payload            any
		json, reason, text string
	}{
		"string":    {"full", `{"reason":"full"}`, "full", "push: replied error: full"},
		"struct":    {struct{ Left int }{3}, `{"Left":3}`, "", "push: replied error"},
		"nothing":   {nil, `{}`, "", "push: replied error"},
		"no string": {map[string]int{"reason": 5}, `{"reason":5}`, "", "push: replied error"},
	} {
		err := fmt.Errorf("wrapped: %w", push.Reject(test.payload))
		var e *push.Error
		if !errors.As(err, &e) {
			t.Fatalf("%s: %T", name, err)
		}
		if got, err := e.Payload.JSON(); err != nil || string(got) != test.json {
			t.Errorf("%s: %s, %v", name, got, err)
		}
		if e.Status != push.StatusError || e.Reason() != test.reason || e.Error() != test.text {
			t.Errorf("%s: %q, %q, %q", name, e.Status, e.Reason(), e.Error())
		}
	}
	binary := &push.Error{Status: "error", Payload: serializer.Binary([]byte{1})}
	if binary.Reason() != "" {
		t.Errorf("binary: %q", binary.Reason())
	}
}

func TestErrorIsReason(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		err    error
		reason push.Reason
		is     bool
	}{
		"the reason":       {push.Reject("full"), "full", true},
		"wrapped":          {fmt.Errorf("ask: %w", push.Reject("full")), "full", true},
		"another reason":   {push.Reject("full"), "empty", false},
		"no reason":        {push.Reject(1), "", false},
		"an empty reason":  {push.Reject(""), "", false},
		"a binary payload": {&push.Error{Payload: serializer.Binary([]byte{1})}, "full", false},
		"a Reason":         {push.Reason("full"), "full", true},
	} {
		if errors.Is(test.err, test.reason) != test.is {
			t.Errorf("%s: %v", name, !test.is)
		}
	}
	if text := push.Reason("full").Error(); text != "push: reason full" {
		t.Error(text)
	}
}
