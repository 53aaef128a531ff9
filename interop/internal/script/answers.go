package script

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"storj.io/drpc"
	"storj.io/drpc/drpcmux"

	// Their descriptors.
	_ "github.com/drpcd/drpcd/interop/proto/agentpb"
	_ "github.com/drpcd/drpcd/interop/proto/tailnetpb"
)

// Raw is a message as it is on the wire.
type Raw struct{ Bytes []byte }

// encoding is protobuf, and bytes as they are.
type encoding struct{}

// Encoding is that of the scripted methods, for clients.
var Encoding drpc.Encoding = encoding{}

func (encoding) Marshal(message drpc.Message) ([]byte, error) {
	if raw, is := message.(*Raw); is {
		return raw.Bytes, nil
	}
	return proto.MarshalOptions{Deterministic: true}.Marshal(message.(proto.Message))
}

func (encoding) Unmarshal(data []byte, message drpc.Message) error {
	if raw, is := message.(*Raw); is {
		raw.Bytes = slices.Clone(data)
		return nil
	}
	return proto.Unmarshal(data, message.(proto.Message))
}

// Method is one of the real services, which the script answers with every field set.
type Method struct {
	Path                         string
	Request, Reply               []byte
	ServerStreams, ClientStreams bool

	request protoreflect.MessageType
}

// Methods are those of the Agent and the Tailnet service, by name of service and in order of their definition.
func Methods() ([]Method, error) {
	var methods []Method
	for _, name := range []protoreflect.FullName{"coder.agent.v2.Agent", "coder.tailnet.v2.Tailnet"} {
		found, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
		if err != nil {
			return nil, err
		}
		defined := found.(protoreflect.ServiceDescriptor).Methods()
		for i := range defined.Len() {
			d := defined.Get(i)
			method := Method{
				Path:          fmt.Sprintf("/%s/%s", name, d.Name()),
				ServerStreams: d.IsStreamingServer(), ClientStreams: d.IsStreamingClient(),
			}
			if method.request, err = protoregistry.GlobalTypes.FindMessageByName(d.Input().FullName()); err != nil {
				return nil, err
			}
			reply, err := protoregistry.GlobalTypes.FindMessageByName(d.Output().FullName())
			if err != nil {
				return nil, err
			}
			for message, encoded := range map[protoreflect.MessageType]*[]byte{method.request: &method.Request, reply: &method.Reply} {
				filled := message.New()
				fill(filled, maxDepth)
				if *encoded, err = (encoding{}).Marshal(filled.Interface()); err != nil {
					return nil, err
				}
			}
			methods = append(methods, method)
		}
	}
	return methods, nil
}

// AnswersText is what is sent and answered for each method, a line each: path, request and reply in hexadecimal.
func AnswersText() (string, error) {
	answered, err := Methods()
	if err != nil {
		return "", err
	}
	var text strings.Builder
	for _, m := range answered {
		fmt.Fprintf(&text, "%s %x %x\n", m.Path, m.Request, m.Reply)
	}
	return text.String(), nil
}

// maxDepth bounds messages that hold themselves.
const maxDepth = 6

// fill sets every field to something that its place alone decides.
func fill(message protoreflect.Message, depth int) {
	fields := message.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		if one := field.ContainingOneof(); one != nil && !one.IsSynthetic() && one.Fields().Get(0) != field {
			continue
		}
		if field.Message() != nil && !field.IsMap() && depth == 0 {
			continue
		}
		switch {
		case field.IsMap():
			entries := message.Mutable(field).Map()
			key := value(field.MapKey()).MapKey()
			if field.MapValue().Message() == nil {
				entries.Set(key, value(field.MapValue()))
			} else if depth > 0 {
				entry := entries.NewValue()
				fill(entry.Message(), depth-1)
				entries.Set(key, entry)
			}
		case field.IsList():
			list := message.Mutable(field).List()
			if field.Message() == nil {
				list.Append(value(field))
			} else {
				fill(list.AppendMutable().Message(), depth-1)
			}
		case field.Message() != nil:
			fill(message.Mutable(field).Message(), depth-1)
		default:
			message.Set(field, value(field))
		}
	}
}

func value(field protoreflect.FieldDescriptor) protoreflect.Value {
	n := int64(field.Number())
	switch field.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.EnumKind:
		values := field.Enum().Values()
		return protoreflect.ValueOfEnum(values.Get(values.Len() - 1).Number())
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return protoreflect.ValueOfInt32(int32(n))
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return protoreflect.ValueOfUint32(uint32(n))
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return protoreflect.ValueOfInt64(n)
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(uint64(n))
	case protoreflect.FloatKind:
		return protoreflect.ValueOfFloat32(float32(n) / 2)
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(float64(n) / 2)
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes(slices.Repeat([]byte{byte(n)}, 16))
	default:
		return protoreflect.ValueOfString(string(field.Name()))
	}
}

// registerAnswers adds the methods of the real services. A request that cannot be read is an error; streams get an answer
// for each request, or one where there is a single one.
func registerAnswers(mux *drpcmux.Mux, s *Service) error {
	answered, err := Methods()
	if err != nil {
		return err
	}
	var list description
	for _, m := range answered {
		read := func(raw *Raw) error {
			return proto.Unmarshal(raw.Bytes, m.request.New().Interface())
		}
		switch {
		case m.ClientStreams:
			list = append(list, method{m.Path, func(_ any, _ context.Context, in, _ any) (drpc.Message, error) {
				stream := in.(drpc.Stream)
				for {
					var request Raw
					if err := stream.MsgRecv(&request, encoding{}); err != nil {
						return nil, nil
					}
					if err := read(&request); err != nil {
						return nil, err
					}
					if err := stream.MsgSend(&Raw{m.Reply}, encoding{}); err != nil {
						return nil, err
					}
				}
			}, func(*Service, drpc.Stream) error { return nil }})
		case m.ServerStreams:
			list = append(list, method{m.Path, func(_ any, _ context.Context, in, stream any) (drpc.Message, error) {
				if err := read(in.(*Raw)); err != nil {
					return nil, err
				}
				return nil, stream.(drpc.Stream).MsgSend(&Raw{m.Reply}, encoding{})
			}, func(*Service, *Raw, drpc.Stream) error { return nil }})
		default:
			list = append(list, method{m.Path, func(_ any, _ context.Context, in, _ any) (drpc.Message, error) {
				if err := read(in.(*Raw)); err != nil {
					return nil, err
				}
				return &Raw{m.Reply}, nil
			}, func(*Service, context.Context, *Raw) (*Raw, error) { return nil, nil }})
		}
	}
	return mux.Register(s, list)
}
