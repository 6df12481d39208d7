// A mapper as existing ones are: it dials edgecore by the path of the socket, registers once, opens its own
// socket only then, follows pointers without asking, and dials anew for each report.
//
// What happens is written to standard output, one JSON object a line; what to do is read from standard
// input in the same way. It decodes with the descriptors that the test compiled from dmi.proto.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
	_ "google.golang.org/protobuf/types/known/wrapperspb"
)

const patience = time.Second

var (
	descriptors = flag.String("descriptors", "", "the compiled dmi.proto")
	edgecore    = flag.String("edgecore", "", "edgecore's socket")
	socket      = flag.String("socket", "", "this mapper's socket")
	protocol    = flag.String("protocol", "", "the protocol of its devices")
	withData    = flag.Bool("with-data", true, "whether to ask for devices and models when registering")
)

// What a test may ask for.
type command struct {
	// Report a value this often, each time on a connection of its own.
	Count    int
	Name     string
	Property string
	Value    string
	// Report a value this often on one connection, with headers that are never the same.
	Burst int
	// Report how the device is.
	State string
	// Refuse calls for this device; empty for none.
	Refuse *string
	// Leave calls unanswered.
	Hang *bool
}

type mapper struct {
	files  *protoregistry.Files
	lock   sync.Mutex
	refuse string
	hang   bool
}

func main() {
	flag.Parse()
	log.SetFlags(0)
	m := &mapper{files: load(*descriptors)}
	m.register()
	go m.serve()
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var c command
		check(json.Unmarshal(lines.Bytes(), &c))
		m.obey(c)
	}
}

func load(path string) *protoregistry.Files {
	bytes, err := os.ReadFile(path)
	check(err)
	var set descriptorpb.FileDescriptorSet
	check(proto.Unmarshal(bytes, &set))
	files, err := protodesc.NewFiles(&set)
	check(err)
	return files
}

func (m *mapper) message(name string) *dynamicpb.Message {
	found, err := m.files.FindDescriptorByName(protoreflect.FullName("v1beta1." + name))
	check(err)
	return dynamicpb.NewMessage(found.(protoreflect.MessageDescriptor))
}

func (m *mapper) request(name, fields string) *dynamicpb.Message {
	request := m.message(name)
	check(protojson.Unmarshal([]byte(fields), request))
	return request
}

// As theirs: the path is the target, so that it becomes the authority.
func dial() *grpc.ClientConn {
	conn, err := grpc.Dial(*edgecore,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithBlock(),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			return net.Dial("unix", *edgecore)
		}))
	check(err)
	return conn
}

func (m *mapper) call(conn *grpc.ClientConn, method string, request *dynamicpb.Message, headers ...string) (*dynamicpb.Message, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, headers...)
	response := m.message(answerOf(method))
	err := conn.Invoke(ctx, "/v1beta1.DeviceManagerService/"+method, request, response)
	return response, err
}

func answerOf(method string) string { return method + "Response" }

func (m *mapper) register() {
	conn := dial()
	defer conn.Close()
	request := m.request("MapperRegisterRequest", quoted(map[string]any{
		"withData": *withData,
		"mapper": map[string]any{
			"name": "go", "version": "v1", "api_version": "v1beta1", "protocol": *protocol,
			"address": []byte(*socket), "state": "ok",
		},
	}))
	response, err := m.call(conn, "MapperRegister", request)
	if err != nil {
		say("refused", nil, err)
		os.Exit(1)
	}
	devices := response.Get(field(response, "deviceList")).List()
	for i := range devices.Len() {
		parse(devices.Get(i).Message())
	}
	say("registered", response, nil)
}

// Follows what theirs follow; theirs crash on what is absent, and so does this.
func parse(device protoreflect.Message) {
	spec := follow(device, "spec")
	follow(spec, "protocol")
	properties := spec.Get(field(spec, "properties")).List()
	for i := range properties.Len() {
		property := properties.Get(i).Message()
		follow(property, "desired")
		follow(follow(property, "visitors"), "configData")
	}
}

func follow(message protoreflect.Message, name protoreflect.Name) protoreflect.Message {
	found := field(message, name)
	if !message.Has(found) {
		panic(fmt.Sprintf("nil dereference: %s", found.FullName()))
	}
	return message.Get(found).Message()
}

func field(message protoreflect.Message, name protoreflect.Name) protoreflect.FieldDescriptor {
	return message.Descriptor().Fields().ByName(name)
}

func (m *mapper) serve() {
	os.Remove(*socket)
	listener, err := net.Listen("unix", *socket)
	check(err)
	found, err := m.files.FindDescriptorByName("v1beta1.DeviceMapperService")
	check(err)
	methods := found.(protoreflect.ServiceDescriptor).Methods()
	service := grpc.ServiceDesc{ServiceName: "v1beta1.DeviceMapperService", HandlerType: (*any)(nil)}
	for i := range methods.Len() {
		method := methods.Get(i)
		service.Methods = append(service.Methods, grpc.MethodDesc{
			MethodName: string(method.Name()),
			Handler: func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
				request := dynamicpb.NewMessage(method.Input())
				if err := decode(request); err != nil {
					return nil, err
				}
				return m.answer(ctx, method, request)
			},
		})
	}
	server := grpc.NewServer()
	server.RegisterService(&service, m)
	check(server.Serve(listener))
}

func (m *mapper) answer(ctx context.Context, method protoreflect.MethodDescriptor, request *dynamicpb.Message) (any, error) {
	name := method.Name()
	if name == "RegisterDevice" || name == "UpdateDevice" {
		parse(follow(request, "device"))
	}
	say(string(name), request, nil)
	m.lock.Lock()
	hang, refuse := m.hang, m.refuse
	m.lock.Unlock()
	if hang {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if device := field(request, "device"); device != nil && refuse != "" {
		message := request.Get(device).Message()
		if message.Get(field(message, "name")).String() == refuse {
			return nil, fmt.Errorf("the driver of %s does not start", refuse)
		}
	}
	return dynamicpb.NewMessage(method.Output()), nil
}

func (m *mapper) obey(c command) {
	switch {
	case c.Refuse != nil || c.Hang != nil:
		m.lock.Lock()
		defer m.lock.Unlock()
		if c.Refuse != nil {
			m.refuse = *c.Refuse
		}
		if c.Hang != nil {
			m.hang = *c.Hang
		}
		say("obeyed", nil, nil)
	case c.State != "":
		conn := dial()
		defer conn.Close()
		_, err := m.call(conn, "ReportDeviceStates", m.request("ReportDeviceStatesRequest", quoted(map[string]any{
			"deviceName": c.Name, "deviceNamespace": "hall", "state": c.State,
		})))
		say("obeyed", nil, err)
	case c.Burst > 0:
		conn := dial()
		defer conn.Close()
		for i := range c.Burst {
			header := fmt.Sprintf("x-%d", i)
			if _, err := m.call(conn, "ReportDeviceStatus", m.status(c), header, header+"-long-enough-to-fill-a-table"); err != nil {
				say("obeyed", nil, err)
				return
			}
		}
		say("obeyed", nil, nil)
	default:
		for range c.Count {
			conn := dial()
			_, err := m.call(conn, "ReportDeviceStatus", m.status(c))
			conn.Close()
			if err != nil {
				say("obeyed", nil, err)
				return
			}
		}
		say("obeyed", nil, nil)
	}
}

func (m *mapper) status(c command) *dynamicpb.Message {
	return m.request("ReportDeviceStatusRequest", quoted(map[string]any{
		"deviceName": c.Name, "deviceNamespace": "hall",
		"reportedDevice": map[string]any{"twins": []any{map[string]any{
			"propertyName": c.Property,
			"reported":     map[string]any{"value": c.Value, "metadata": map[string]string{"timestamp": "17", "type": "int"}},
		}}},
	}))
}

var output sync.Mutex

func say(event string, message proto.Message, err error) {
	line := map[string]any{"event": event}
	if message != nil {
		bytes, broken := protojson.Marshal(message)
		check(broken)
		line["message"] = json.RawMessage(bytes)
	}
	if err != nil {
		line["error"] = err.Error()
	}
	output.Lock()
	defer output.Unlock()
	fmt.Println(quoted(line))
}

func quoted(value any) string {
	bytes, err := json.Marshal(value)
	check(err)
	return string(bytes)
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
