// Writes scala.txt: what println and DStream.print show for each line of values.jsonl.
//
// Usage, in this folder, with Java 17, after the set-up that make_golden.py names:
//
//     export SPARK_HOME=$(/tmp/golden/bin/python -c 'import pyspark; print(pyspark.__path__[0])')
//     $SPARK_HOME/bin/spark-shell --master 'local[1]' -i make_golden.scala
//
// The files are as make_golden.py describes them. Numbers that Java 17 writes with more digits than needed
// (Java 19 mended that) can't stand in values.jsonl without `"only": "python"`.

import java.io.{ByteArrayOutputStream, PrintStream}
import scala.collection.mutable
import scala.io.{Codec, Source}
import org.apache.spark.rdd.RDD
import org.apache.spark.streaming.{Milliseconds, StreamingContext, Time}
import org.json4s._
import org.json4s.jackson.JsonMethods

case class Point(x: Any, y: Any)
case class Wrapper(value: Any)
case object Nothing

def tuple(elements: List[Any]): Any = elements match {
  case List(a) => Tuple1(a)
  case List(a, b) => (a, b)
  case List(a, b, c) => (a, b, c)
  case List(a, b, c, d) => (a, b, c, d)
  case other => sys.error(s"no tuple of ${other.size}")
}

def double(text: String): Double = text match {
  case "inf" => Double.PositiveInfinity
  case "-inf" => Double.NegativeInfinity
  case "nan" => Double.NaN
  case number => number.toDouble
}

def float(text: String): Float = text match {
  case "inf" => Float.PositiveInfinity
  case "-inf" => Float.NegativeInfinity
  case "nan" => Float.NaN
  case number => number.toFloat
}

def build(tagged: JValue): Any = tagged match {
  case JObject(List((tag, content))) => (tag, content) match {
    case ("str", JString(text)) => text
    case ("char", JString(text)) if text.length == 1 => text.charAt(0)
    case ("char", JString(text)) => text
    case ("bool", JBool(value)) => value
    case ("f64", JString(text)) => double(text)
    case ("f32", JString(text)) => float(text)
    case ("i8", JString(text)) => text.toByte
    case ("i16", JString(text)) => text.toShort
    case ("i32", JString(text)) => text.toInt
    case ("i64", JString(text)) => text.toLong
    case ("i128" | "u8" | "u16" | "u32" | "u64" | "u128", JString(text)) => BigInt(text)
    case ("unit", _) => ()
    case ("none", _) => None
    case ("some", value) => Some(build(value))
    case ("tuple", JArray(elements)) => tuple(elements.map(build))
    case ("seq", JArray(elements)) => elements.map(build)
    case ("map", JArray(entries)) => entries.map {
      case JArray(List(key, value)) => build(key) -> build(value)
      case other => sys.error(s"no entry: $other")
    }.toMap
    case ("bytes", JArray(bytes)) => bytes.map {
      case JInt(byte) => byte.toByte
      case other => sys.error(s"no byte: $other")
    }.toArray.toList
    case ("struct", JArray(List(JString("Point"), JArray(List(JArray(List(_, x)), JArray(List(_, y))))))) => Point(build(x), build(y))
    case ("newtype_struct" | "newtype_variant", JArray(List(JString("Wrapper"), value))) => Wrapper(build(value))
    case ("unit_struct" | "unit_variant", JString("Nothing")) => Nothing
    case other => sys.error(s"unknown type: $other")
  }
  case other => sys.error(s"no value: $other")
}

// Makes the graph give the jobs of one chosen batch time, as its scheduler does at that time. Both are
// private to Spark's packages, but not to reflection.
def printBlock(block: JValue): Unit = {
  implicit val formats: Formats = DefaultFormats
  val time = (block \ "time_ms").extract[Long]
  val interval = 1000L
  val ssc = new StreamingContext(sc, Milliseconds(interval))
  val rows = (block \ "rows").asInstanceOf[JArray].arr.map(build)
  val stream = ssc.queueStream(mutable.Queue[RDD[Any]](sc.parallelize(rows, 2)))
  stream.print((block \ "num").extract[Int])
  val graph = ssc.getClass.getMethods.find(_.getName == "graph").get.invoke(ssc)
  def call(name: String, argument: Time): Any =
    graph.getClass.getMethods.find(_.getName == name).get.invoke(graph, argument)
  call("start", Time(time - interval))
  call("generateJobs", Time(time)).asInstanceOf[Seq[AnyRef]].foreach { job =>
    job.getClass.getMethod("run").invoke(job)
  }
  ssc.stop(stopSparkContext = false)
}

def escape(text: String): String = {
  val out = new StringBuilder
  text.codePoints.toArray.foreach {
    case '\\' => out.append("\\\\")
    case '\n' => out.append("\\n")
    case c if c >= ' ' && c <= '~' => out.append(c.toChar)
    case c => out.append("\\u{" + c.toHexString + "}")
  }
  out.toString
}

sc.setLogLevel("ERROR")
val target = new PrintStream("scala.txt", "US-ASCII")
val javaVersion = System.getProperty("java.version")
target.print(s"# Written by make_golden.scala with Spark ${sc.version}, Scala ${scala.util.Properties.versionNumberString}, Java $javaVersion\n")
for (line <- Source.fromFile("values.jsonl")(Codec.UTF8).getLines) {
  val testCase = JsonMethods.parse(line)
  val JString(name) = testCase \ "name"
  if ((testCase \ "only") != JString("python")) {
    val printed = new ByteArrayOutputStream
    Console.withOut(new PrintStream(printed, true, "UTF-8")) {
      (testCase \ "block") match {
        case JNothing => println(build(testCase \ "value"))
        case block => printBlock(block)
      }
    }
    target.print(name + "\t" + escape(printed.toString("UTF-8")) + "\n")
  }
}
target.close()
System.exit(0)
