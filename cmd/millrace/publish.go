package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/eclipse/paho.golang/autopaho"
	"github.com/eclipse/paho.golang/paho"

	"millrace/cmd/internal/client"
	"millrace/devices"
)

// publishCmd sends one measurement.
type publishCmd struct {
	To     string   `default:"mqtt://localhost:1883" help:"Where to: mqtt://host:1883 (mqtts, ws, wss) or http://host:8080 (https)."`
	Token  string   `required:"" help:"The device's token."`
	Device string   `arg:"" help:"Id of the device."`
	Values []string `arg:"" help:"metric=value, such as temp=21.5; several make one message. Or one JSON payload."`
}

func (c *publishCmd) Run(ctx context.Context, con *console) error {
	payload, err := payloadOf(c.Values)
	if err != nil {
		return err
	}
	to, err := url.Parse(c.To)
	if err != nil || to.Host == "" {
		return fmt.Errorf("--to: %q is no address such as mqtt://localhost:1883", c.To)
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if to.Scheme == "http" || to.Scheme == "https" {
		cl, err := client.New(c.To, c.Token)
		if err != nil {
			return err
		}
		if err := cl.Do(ctx, "POST", "/api/v1/devices/"+url.PathEscape(c.Device)+"/telemetry", payload, nil); err != nil {
			return err
		}
	} else if err := c.mqtt(ctx, to, payload); err != nil {
		return err
	}
	fmt.Fprintln(con.out, "stored")
	return nil
}

// payloadOf makes a message of the command line's words: values that are JSON stay what they are, others become texts.
func payloadOf(words []string) ([]byte, error) {
	if len(words) == 1 && (strings.HasPrefix(words[0], "{") || strings.HasPrefix(words[0], "[")) {
		return []byte(words[0]), nil
	}
	values := map[string]json.RawMessage{}
	for _, w := range words {
		name, value, ok := strings.Cut(w, "=")
		if !ok || !devices.ValidMetric(name) {
			return nil, fmt.Errorf("%q is not metric=value", w)
		}
		raw := json.RawMessage(value)
		if !json.Valid(raw) {
			raw, _ = json.Marshal(value)
		}
		values[name] = raw
	}
	return json.Marshal(values)
}

// mqtt publishes at QoS 1, so that the answer says whether it is stored.
func (c *publishCmd) mqtt(ctx context.Context, to *url.URL, payload []byte) error {
	refused := make(chan error, 1)
	cm, err := autopaho.NewConnection(ctx, autopaho.ClientConfig{
		ServerUrls: []*url.URL{to}, TlsCfg: &tls.Config{MinVersion: tls.VersionTLS12}, KeepAlive: 30, CleanStartOnInitialConnection: true,
		ConnectUsername: c.Device, ConnectPassword: []byte(c.Token),
		OnConnectError: func(err error) {
			select {
			case refused <- err:
			default:
			}
		},
		ClientConfig: paho.ClientConfig{ClientID: "publish-" + c.Device},
	})
	if err != nil {
		return err
	}
	defer func() {
		leaving, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		_ = cm.Disconnect(leaving)
	}()
	up := make(chan error, 1)
	go func() { up <- cm.AwaitConnection(ctx) }() // ends with ctx, at the latest
	select {
	case err := <-refused:
		return fmt.Errorf("%s: %w", to.Redacted(), err)
	case err := <-up:
		if err != nil {
			return fmt.Errorf("%s: %w", to.Redacted(), err)
		}
	}
	res, err := cm.Publish(ctx, &paho.Publish{Topic: "devices/" + c.Device + "/telemetry", Payload: payload, QoS: 1})
	if res != nil && res.ReasonCode >= 0x80 {
		reason := ""
		if res.Properties != nil {
			reason = res.Properties.ReasonString
		}
		return fmt.Errorf("refused with reason code 0x%02x %s", res.ReasonCode, reason)
	}
	if err != nil {
		return errors.Join(errors.New("not acknowledged"), err)
	}
	return nil
}
