import { testShortForm } from '../support/failure-run.ts'

testShortForm('workers-killed')
